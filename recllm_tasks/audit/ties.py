"""How many interactions share their time with another one, and how those were put in order."""

from recllm_tasks.audit.records import Records
from recllm_tasks.audit.verdict import Check


def check_ties(records: Records) -> Check:
    """Nothing that can fail: a fact to know when results are compared.

    Times are not stored, so this is what `recllm prepare` counted.
    """
    facts = records.info.tie_counts
    if facts is None:
        figures = {"not counted": "prepare again with --overwrite to have them counted"}
        return Check("ties", "ties: nothing to check", figures)
    share = facts.users_with_test_tied / max(1, len(records.users))
    figures = {
        "order": facts.order,
        "interactions tied": facts.interactions,
        "users whose test item is tied": facts.users_with_test_tied,
        "share of users": round(share, 4),
    }
    return Check("ties", "ties counted, their order known", figures)
