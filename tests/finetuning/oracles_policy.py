"""Oracles for what learns from rewards and preferences: its tests, less those that take many updates."""

from oracles import run

LONG = (
    "two_processes",
    "under_fsdp",
    "values_learn",
    "training_prefers",
    "rewards_learn",
    "a_student_learns",
    "ppo_needs",
)


def gradients():
    run("finetuning/test_policy_gradients.py")


def rollout():
    run("finetuning/test_rollout.py", without=LONG)


def dpo():
    run("finetuning/test_dpo.py", without=LONG)


ORACLES = [gradients, rollout, dpo]
FIRST = {
    "finetuning.grpo": gradients,
    "finetuning.ppo": gradients,
    "finetuning.rollout": rollout,
    "finetuning.on_policy": rollout,
    "finetuning.distill": rollout,
    "finetuning.dpo": dpo,
    "finetuning.reward": dpo,
}
