# Copyright (c) 2026 onprem.deepseek maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Words of a rollout's status, in each of its languages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Words:
    """All that the status says beside what a record has; ``tag`` is the language by BCP 47."""

    tag: str
    title: str
    step: str
    share: str
    stable: str
    canary: str
    started: str
    entered: str
    lease: str
    age: str
    reason: str
    as_of: str
    shares: str
    gateway: str
    wanted: str
    read_back: str
    unknown: str
    none: str
    figures: str
    measure: str
    interval: str
    worse: str
    enough: str
    decisions: str
    time: str
    state: str
    decision: str
    states: Mapping[str, str]
    kinds: Mapping[str, str]
    measures: Mapping[str, str]


ENGLISH = Words(
    tag="en",
    title="Rollout",
    step="step {step} of {steps}",
    share="share",
    stable="Stable release",
    canary="Canary",
    started="Started",
    entered="In this state since",
    lease="Lease",
    age="renewed {seconds} s ago",
    reason="Reason",
    as_of="As of",
    shares="Share of requests by gateway",
    gateway="Gateway",
    wanted="Wanted",
    read_back="Read back",
    unknown="not known",
    none="None yet.",
    figures="Figures of the last judgement",
    measure="Measure",
    interval="Canary, 95 % interval",
    worse="Probability of worse",
    enough="Bad from",
    decisions="Decisions, the last one first",
    time="Time",
    state="State",
    decision="Decision",
    states={
        "idle": "nothing under way",
        "prepared": "prepared, no requests yet",
        "step": "canary takes requests",
        "promoting": "being promoted",
        "done": "promoted",
        "rolling_back": "being rolled back",
        "rolled_back": "rolled back",
    },
    kinds={"good": "good", "bad": "bad", "hold": "hold"},
    measures={
        "failures": "failed first attempts",
        "slow_first_tokens": "slow first tokens",
        "slow_tokens": "slow tokens",
        "broken_generations": "broken generations",
        "refusals": "refused requests",
    },
)
CHINESE = Words(
    tag="zh-Hans",
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
)
LANGUAGES: Mapping[str, Words] = {"en": ENGLISH, "zh": CHINESE}
