"""What trials with a `bos_zero` block need: their BOS rule, no merge, and warnings where they compare with nothing."""

from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.decide.settings import TrialSettings
from orchestrator.errors import Mistake
from orchestrator.registry import NO_METHOD, Registry
from trainables._bos_zero import BLOCK, KEPT, BosZero, bos_rule, merge_mistake, wrong_bos


def with_bos_rule(
    merged: Mapping[str, Any], method: str, registry: Registry
) -> tuple[Mapping[str, Any], list[Mistake]]:
    """The values of a trial with the `data.bos` that its method needs, where they name none; a mistake where they name
    another."""
    rule = bos_rule(registry.method(method)) if method != NO_METHOD else None
    data = merged.get("data")
    if rule is None or not isinstance(data, Mapping) or data.get("bos") == rule:
        return merged, []
    said = data.get("bos")
    wrong = [] if said is None else [Mistake("data.bos", said, wrong_bos(method, rule), "Leave it out.")]
    return {**merged, "data": {**data, "bos": rule}}, wrong


def merge_mistakes(method: str, blocks: Mapping[str, Mapping[str, Any]], registry: Registry) -> list[Mistake]:
    """Whether a merged model is asked for, of a trial that is used with a scaling."""
    own = registry.own_block(method)
    if BLOCK not in blocks or own not in blocks:
        return []
    found = merge_mistake(registry.method(method).Config(**blocks[own]), BosZero(**blocks[BLOCK]))
    return [] if found is None else [Mistake(f"{own}.{found[0]}", found[1], found[2], KEPT)]


def scaling_warnings(trials: Iterable[tuple[str, TrialSettings]]) -> list[str]:
    """One line for scaled trials (label, settings) without a BOS in front, and for others that begin otherwise."""
    trained = [(label, settings) for label, settings in trials if settings.data and settings.method != NO_METHOD]
    scaled = [(label, settings) for label, settings in trained if BLOCK in settings.blocks]
    found = []
    bare = [label for label, settings in scaled if settings.data and settings.data.bos == "template"]
    if bare:
        found.append(
            f"data.bos: template puts no BOS in front of a row, so the first position that bos_zero scales in "
            f"{', '.join(bare)} is whatever the chat template writes first. Use data.bos: always"
        )
    fronts = {(settings.data.bos, settings.data.bos_token) for _, settings in trained if settings.data}
    if scaled and len(fronts) > 1:
        found.append(
            "data.bos: trials with bos_zero and others begin their rows differently, so a difference between them may "
            "be that of the BOS. Write the same data.bos and data.bos_token for all"
        )
    return found
