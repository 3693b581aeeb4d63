"""What is learned of the answers: a method is a list of queries and a state that follows from what they say.

A method is looked up by the ``kind`` of a study's ``[method]``. The schedule, and all that is derived from it (privacy
plan, charges, order of messages, approval text, audit, receipts), comes from `schedule`.
"""

from __future__ import annotations

from pmfed.methods.method import Ask, DecodedSum, Method
from pmfed.methods.registry import METHODS, method_class, method_for
from pmfed.methods.schedule import noiseless_plan, plan_for, schedule

__all__ = [
    "METHODS",
    "Ask",
    "DecodedSum",
    "Method",
    "method_class",
    "method_for",
    "noiseless_plan",
    "plan_for",
    "schedule",
]
