# make -f modules.mk KERNEL=HEADERS VERSION=VERSION: NVIDIA's modules by name, in the directory that it is called in.
modules := nvidia nvidia-modeset nvidia-drm nvidia-uvm nvidia-peermem
here := $(dir $(lastword $(MAKEFILE_LIST)))

# With debugging information, from which Debian 13's kernel makes types (BTF) of what is in a module, and fails where there is none.
.PHONY: all
all:
	rm -rf stand-in && mkdir stand-in
	for module in $(modules); do cp $(here)stand_in.c stand-in/$$module.c; done
	printf '%s\n' 'obj-m := $(modules:=.o)' 'ccflags-y := -DSTAND_IN_VERSION=\"$(VERSION)\"' >stand-in/Kbuild
	$(MAKE) -C $(KERNEL) M=$(CURDIR)/stand-in KCFLAGS= modules
	cp stand-in/*.ko .
