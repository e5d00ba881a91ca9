# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reports in simplified Chinese."""

from __future__ import annotations

from .words import Language, PreflightWords, StatusWords, ZoneWords

CHINESE = Language(
    tag="zh-CN",
    status=StatusWords(
        title="发布状态",
        step="第 {step} 步 / 共 {steps} 步",
        share="流量比例",
        stable="稳定版本",
        canary="金丝雀版本",
        started="开始",
        entered="进入当前状态",
        lease="租约",
        age="{seconds} 秒前续约",
        reason="原因",
        as_of="截至",
        shares="各网关的流量比例",
        gateway="网关",
        wanted="应有",
        read_back="实际",
        unknown="未知",
        none="暂无。",
        figures="最近一次判定的数据",
        measure="指标",
        interval="金丝雀 95 % 区间",
        worse="变差的概率",
        enough="判坏阈值",
        decisions="决定 · 最新在前",
        time="时间",
        state="状态",
        decision="决定",
        states={
            "idle": "没有进行中的发布",
            "prepared": "已就绪 · 尚无请求",
            "step": "金丝雀正在接收请求",
            "promoting": "正在全量发布",
            "done": "已全量发布",
            "rolling_back": "正在回滚",
            "rolled_back": "已回滚",
        },
        kinds={"good": "良好", "bad": "不良", "hold": "等待"},
        measures={
            "failures": "首次尝试失败",
            "slow_first_tokens": "首个词元过慢",
            "slow_tokens": "词元过慢",
            "broken_generations": "生成中断",
            "refusals": "被拒绝的请求",
        },
    ),
    preflight=PreflightWords(
        title="上线前检查",
        passed="全部通过",
        one_wrong="有 1 处需要修正；未改动任何东西。",
        wrong="有 {count} 处需要修正；未改动任何东西。",
        one_to_put_right="有 1 处需要修正",
        to_put_right="有 {count} 处需要修正",
        all_right="{hosts} 台主机和清单均符合要求。",
        summary="{at}。{hosts} 台主机，{checks} 项检查，其中 {deferred} 项尚未判定。网络测量：{network}。未改动任何东西。",
        untested="未经测试，由清单接受：",
        deferred="尚未判定：",
        failed_checks="需要修正",
        deferred_checks="尚未判定",
        untested_checks="未经测试，由清单接受",
        all_checks="全部检查项",
        status="状态",
        host="主机",
        check="检查项",
        found="实际情况",
        expected="要求",
        remedy="处理办法",
        statuses={
            "ok": "通过",
            "failed": "不通过",
            "deferred": "尚未判定",
            "skipped": "不判定",
            "untested": "未经测试",
        },
    ),
    zones=ZoneWords(
        title="网络安全域",
        summary="{made}，{hosts} 台主机，用真实数据包（TCP、UDP、ICMP；IPv4、IPv6）尝试了 {probes} 个连接。",
        passed="放行与阻断均与安全域的规定一致。",
        wrong="有 {count} 处与安全域的规定不符。",
        said_passed="{hosts} 台主机之间的 {probes} 个连接，放行与阻断均与安全域的规定一致。报告在 {directory}。",
        said_wrong="有 {count} 处与安全域的规定不符；报告在 {directory}",
        between="安全域之间",
        cells="每格为从行到列所尝试的连接中：允许且通过的，以及禁止且被阻断的。",
        from_to="起点 \\ 终点",
        not_tried="未尝试",
        through="允许 {allowed}，通过 {reached}",
        stopped="禁止 {denied}，阻断 {stopped}",
        without_route="（其中 {count} 个没有路由）",
        flows="访问流",
        source="起点",
        target="终点",
        ports="协议、端口",
        why="用途",
        packets="数据包数",
        never_used="从未使用",
        hosts="主机",
        host="主机",
        rules="规则",
        enforced="已启用",
        not_enforced="未启用",
        default_route="默认路由",
        denied="拒绝的数据包",
        containers="容器",
        reached="尝试 {tried}，到达 {reached}",
        needs="服务所需的连接",
        needs_met="放行 {tried}",
        needs_tried="共 {needs}，尝试并放行 {tried}",
        outside="所有安全域之外",
        none="无",
        zones="安全域",
        zone="安全域",
        networks="网段",
        sum="已签名的 zones.json 的 SHA-256：",
        check="核对方法：",
        key="并确认 zones.pub 是本站点的发布公钥。",
    ),
    sentences={
        # words by themselves
        "unknown": "未知",
        "none": "无",
        "nothing": "无",
        "denied": "禁止",
        "reached": "到达",
        "silent": "无应答",
        "denied here": "在本机被拒绝",
        "no route": "没有路由",
        "ahead of": "快",
        "behind": "慢",
        # of each check
        "it dropped out of the run": "主机中途退出了本次执行",
        "at least {} {}": "至少 {0} {1}",
        "at least {}": "至少 {0}",
        "{}, or set deepseek_minimums.{} to what you have (null: not judged)": "{0}；或把 deepseek_minimums.{1} 设为现有的值（null 表示不判定）",
        # hosts
        "it answers, and sudo works": "有应答，sudo 可用",
        "Run module host_info by hand": "手工运行模块 host_info",
        "what can be published, in {}": "{0} 中的内容可以发布",
        "tokenizer and chat template are loaded when it is published: the serving package is not installed yet": (
            "分词器和聊天模板在发布时加载：服务软件包尚未安装"
        ),
        "its variables cannot all be read: {}": "它的变量无法全部读取：{0}",
        "Correct what is said here, and run preflight again": "按此处的说明修正，然后再次执行上线前检查",
        "See ansible-doc -t role onprem.deepseek.{}": "参见 ansible-doc -t role onprem.deepseek.{0}",
        "the inventory gives it no management address": "清单没有给出它的管理地址",
        "it gave no facts": "没有取得 fact",
        "it cannot be used: {}": "无法使用：{0}",
        "SSH, Python 3, and sudo without a password": "SSH、Python 3 和免密码的 sudo",
        "Start it, and check address, user, SSH key and sudo with: ansible -m ansible.builtin.ping -b": (
            "启动主机，并检查地址、用户、SSH 密钥和 sudo：ansible -m ansible.builtin.ping -b"
        ),
        "Let its user run sudo without a password, or give the password with --ask-become-pass": (
            "允许其用户免密码执行 sudo，或用 --ask-become-pass 提供密码"
        ),
        "Install Python 3 on it, or name the one that it has in ansible_python_interpreter": (
            "安装 Python 3，或在 ansible_python_interpreter 中指明现有的解释器"
        ),
        "Check the host's key, and put the right one into known_hosts": "核对主机密钥，并把正确的密钥写入 known_hosts",
        "tasks run as {}": "任务以 {0} 身份执行",
        "root, whose files the roles change": "root，角色要修改它的文件",
        "Remove ansible_become: false and ansible_become_user from the host's variables, or let its user become root": (
            "从主机变量中去掉 ansible_become: false 和 ansible_become_user，或允许其用户提权到 root"
        ),
        "{}: no role was tested on it": "{0}：没有任何角色在它上面测试过",
        "no role was tested on it": "没有任何角色在它上面测试过",
        "there is nothing for this system": "本集合不支持该系统",
        "its Python 3.10 has no lock of the serving package, and its HAProxy 2.4 cannot take keys from providers of OpenSSL": (
            "它的 Python 3.10 没有服务软件包的锁文件，它的 HAProxy 2.4 不能从 OpenSSL provider 取用密钥"
        ),
        "Reinstall the host with {}": "用 {0} 重装主机",
        "{}, or set {} to true and test it yourself": "{0}；或把 {1} 设为 true 并自行测试",
        "Reinstall the host": "重装主机",
        "Take the host out of the inventory": "把主机从清单中去掉",
        "Use a host with more processors": "换用处理器更多的主机",
        "Add memory": "增加内存",
        "it is {} s {} the controller's": "比控制机{1} {0} 秒",
        "as the controller's": "与控制机一致",
        "within {} s": "相差不超过 {0} 秒",
        "Set up time synchronisation: certificates are valid from the minute in which they are issued": "设置时间同步：证书从签发的那一分钟起生效",
        "no time service runs": "没有运行时间服务",
        "kept by {} within {} ms": "由 {0} 保持，误差 {1} ms 以内",
        "{} runs and has not set the clock": "{0} 在运行，但还没有校准时钟",
        "a time service that is synchronised": "已同步的时间服务",
        "Configure chrony with a time server that the host can reach, and look at it with chronyc tracking": (
            "为 chrony 配置主机能访问的时间服务器，并用 chronyc tracking 查看"
        ),
        "it has no address {} ({}), only {}": "没有地址 {0}（{1}），只有 {2}",
        "{} ({}) on {}": "{0}（{1}），网卡 {2}",
        "{}, as deepseek_zone_addresses.{} says": "{0}，见 deepseek_zone_addresses.{1}",
        "Correct the inventory, or set the interface up": "更正清单，或配置该网卡",
        "Look at cable, transceiver and switch port with ethtool": "用 ethtool 检查线缆、光模块和交换机端口",
        "unknown: {}": "未知：{0}",
        "unknown: it was not measured": "未知：没有测量",
        "it was not measured": "没有测量",
        "Give the store a larger disk": "为存储库换用更大的磁盘",
        "{} bytes free for the store": "存储库可用 {0} 字节",
        "at least {} bytes, which the releases take": "至少 {0} 字节，这是各发布版本所需的空间",
        "at least {} GB, which {} take": "至少 {0} GB，这是 {1} 所需的内存",
        "Add memory, or serve fewer releases on this host": "增加内存，或让这台主机少提供几个发布版本",
        "Free some space or give the store a larger file system": "腾出空间，或为存储库换用更大的文件系统",
        "Give the store a faster disk": "为存储库换用更快的磁盘",
        "no NVIDIA GPU on the PCI bus": "PCI 总线上没有 NVIDIA GPU",
        "GPUs, which the engine {} needs": "引擎 {0} 所需的 GPU",
        "Look at seat and power of the GPUs, or choose a flavour without GPUs": "检查 GPU 的插接和供电，或选用不需要 GPU 的引擎类型",
        "{} on the PCI bus, driver {}; they are judged once role serving_environment has installed nvidia-ml-py, or now if "
        "gpu_validation_wheel names a wheel of it on the host": (
            "PCI 总线上有 {0} 块，驱动 {1}；角色 serving_environment 装好 nvidia-ml-py 之后判定，或用 gpu_validation_wheel 指明主机上的 wheel 立即判定"
        ),
        "{} on the PCI bus; they are judged once the rollout has installed the driver": "PCI 总线上有 {0} 块；部署装好驱动之后判定",
        "{} on the PCI bus, and no NVIDIA driver is loaded": "PCI 总线上有 {0} 块，但没有加载 NVIDIA 驱动",
        "a driver that is loaded": "已加载的驱动",
        "Install NVIDIA's driver, or set deepseek_manage_gpu_driver to true": "安装 NVIDIA 驱动，或把 deepseek_manage_gpu_driver 设为 true",
        # the network
        "{} as in the rest of the zone": "{0}，与本安全域其余主机一致",
        "Set the MTU of {} as that of the others in zone {}": "把 {0} 的 MTU 设为与安全域 {1} 中其他主机相同",
        "Raise the MTU of the whole zone {}, its switches first, or lower deepseek_minimums.mtu": (
            "提高整个安全域 {0} 的 MTU，先改交换机；或降低 deepseek_minimums.mtu"
        ),
        "not measured: preflight_network is off": "未测量：preflight_network 为 off",
        "it cannot listen on {} port {}: {}": "无法在 {0} 端口 {1} 监听：{2}",
        "a free port": "空闲的端口",
        "Run preflight again in a minute, when what an interrupted run has left has ended by itself, or set preflight_network_port to a free port": (
            "一分钟后再次执行上线前检查，届时中断的执行所留下的进程已自行结束；或把 preflight_network_port 设为空闲的端口"
        ),
        "TCP and UDP port {} answer ({})": "TCP 和 UDP 端口 {0} 有应答（{1}）",
        "not measured: {} was not reached": "未测量：无法到达 {0}",
        "not measured: {} has no address in zone {}": "未测量：{0} 在安全域 {1} 中没有地址",
        "not measured: {} could not listen": "未测量：{0} 无法监听",
        "not measured: the probe gave no result": "未测量：探测没有结果",
        "a measurement": "测量结果",
        "Run preflight again; if it stays so, look at both hosts": "再次执行上线前检查；如果仍然如此，检查两台主机",
        "{} {} -> {} port {} ({}): {}": "{0} {1} -> {2} 端口 {3}（{4}）：{5}",
        "an answer by {}": "{0} 的应答",
        "Let TCP and UDP port {} through from {} to {}, in the packet filters of both hosts and between them": (
            "在两台主机及其之间的包过滤中，放行从 {1} 到 {2} 的 TCP 和 UDP 端口 {0}"
        ),
        "median {} ms, min {}, p99 {} ({})": "中位数 {0} ms，最小 {1}，p99 {2}（{3}）",
        "median below {} ms": "中位数低于 {0} ms",
        "Look at load, routes and distance between the rooms, or set deepseek_minimums.rtt_ms to what you have": (
            "检查负载、路由和机房之间的距离；或把 deepseek_minimums.rtt_ms 设为现有的值"
        ),
        "{} of {} datagrams lost ({})": "{1} 个数据报丢失 {0} 个（{2}）",
        "at most {} %": "至多 {0} %",
        "Look at the error counters of NICs and switch ports on the way with ip -statistics link": (
            "检查沿途网卡和交换机端口的错误计数，网卡用 ip -statistics link 查看"
        ),
        "{}, the MTU of the NIC": "{0}，即网卡的 MTU",
        "Set the MTU of all NICs and switch ports between {} and {} to {}": "把 {0} 与 {1} 之间所有网卡和交换机端口的 MTU 设为 {2}",
        "not measured: its turn is {}, and preflight_network_turns is {}": "未测量：它排在第 {0} 轮，而 preflight_network_turns 为 {1}",
        "not measured: the transfer gave no result": "未测量：传输没有结果",
        "Look at NIC speed, load and switch ports on the way": "检查沿途的网卡速率、负载和交换机端口",
        "{} Mb/s there, {} Mb/s back ({})": "去程 {0} Mb/s，回程 {1} Mb/s（{2}）",
        # keys
        "accepted: {}": "已接受：{0}",
        "{} (docs/explanation/tls.md), or add {} to deepseek_accepted_key_risks: {}": (
            "{0}（docs/explanation/tls.md）；或把 {1} 加入 deepseek_accepted_key_risks：{2}"
        ),
        "that nobody can copy keys": "任何人都不能复制密钥",
        "keys are files: anyone with the disk, or a backup of it, has the keys": "密钥是文件：取得磁盘或其备份的人就取得了密钥",
        "PINs are readable files: root on the host can use its tokens, and a copy of the disk has the PINs": (
            "PIN 是可读的文件：主机上的 root 可以使用令牌，磁盘的副本中也有 PIN"
        ),
        "the key of the root CA stays on the release host: anyone who takes that host can issue every certificate": (
            "根 CA 的密钥留在发布主机上：控制该主机的人可以签发任何证书"
        ),
        "the disk with tokens and PINs is not encrypted: a discarded or stolen disk gives them away": (
            "存放令牌和 PIN 的磁盘没有加密：报废或被盗的磁盘会泄露它们"
        ),
        "Use a hardware token": "使用硬件令牌",
        "of {}": "令牌 {0} 的 PIN",
        "Seal them to the host's TPM 2 with systemd-creds, or use a hardware token, where a PIN alone is worth nothing": (
            "用 systemd-creds 封存到主机的 TPM 2，或使用硬件令牌（单有 PIN 没有用处）"
        ),
        "it is away": "已移走",
        "it is here": "在本机上",
        "it is made here by the first run, and is to be taken off the host after it": "由首次部署在本机生成，之后应移出主机",
        "Take it off the host": "把它移出主机",
        "it is encrypted": "已加密",
        "it is not": "未加密",
        "that cannot be seen": "无法判断",
        "Put the tokens on a LUKS volume": "把令牌放在 LUKS 卷上",
        # the inventory
        "as they must be": "符合要求",
        "as the release host has it": "与发布主机的记录一致",
        # the evidence of zones
        "let through ({})": "放行（{0}）",
        "{} is {}, and was {}": "{0}：规定为{1}，实际为{2}",
        "{} from {} ({}) to {} ({})": "{0}，从 {1}（{2}）到 {3}（{4}）",
        "{} ({}) is not let in to TCP port {} of {} ({}): {}": "{0}（{1}）不能进入 {3}（{4}）的 TCP 端口 {2}：{5}",
        "{} was not asked": "没有询问 {0}",
        "{} does not enforce the rules of the zones": "{0} 没有启用安全域规则",
        "container {} (process {}) on {}: {} was reached": "{2} 上的容器 {0}（进程 {1}）：{3} 到达了",
        "{} reached {}, which is in no zone": "{0} 到达了 {1}，它不在任何安全域中",
        "{} has a default route: {}": "{0} 有默认路由：{1}",
        "{} ({} of {} such connections were tried)": "{0}（{2} 个此类连接中尝试了 {1} 个）",
        "{}: a unit lets in {}, and the zones only {}": "{0}：单元放行 {1}，而安全域只放行 {2}",
    },
)
