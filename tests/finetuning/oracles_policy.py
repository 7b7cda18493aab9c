"""Oracles for what learns from rewards and preferences: its tests, less those that take many updates."""

from cases import cases

LONG = (
    "two_processes",
    "under_fsdp",
    "values_learn",
    "training_prefers",
    "rewards_learn",
    "a_student_learns",
    "ppo_needs",
)

ORACLES = [
    *cases("finetuning/test_policy_gradients.py"),
    *cases("finetuning/test_rollout.py", without=LONG),
    *cases("finetuning/test_dpo.py", without=LONG),
]
