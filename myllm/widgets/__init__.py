"""Interactive figures for the published page: state as JSON, all computation in the reader's browser.

Each widget asks one question, to be answered before a control is moved. The ``book`` extra is needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .accept_reject import AcceptReject
    from .all_reduce import AllReduce
    from .beta_explorer import BetaExplorer
    from .bits_dial import BitsDial
    from .block_diagram import BlockDiagram
    from .gptq_lattice import GPTQLattice
    from .grid_explorer import GridExplorer
    from .key_map import KeyMap
    from .kv_bytes import KVBytes
    from .letter_heat_map import LetterHeatMap
    from .mask_explorer import MaskExplorer
    from .mask_viewer import MaskViewer
    from .memory_timeline import MemoryTimeline
    from .merge_stepper import MergeStepper
    from .number_line import NumberLine
    from .optimizer_race import OptimizerRace
    from .policy_playground import PolicyPlayground
    from .rank_slider import RankSlider
    from .rope_dial import RopeDial
    from .router_simplex import RouterSimplex
    from .sampling_explorer import SamplingExplorer
    from .scheduler_timeline import SchedulerTimeline
    from .threshold_dial import ThresholdDial
    from .token_comparer import TokenComparer
    from .window_slider import WindowSlider
    from .writer import Writer

__all__ = [
    "AcceptReject",
    "AllReduce",
    "BetaExplorer",
    "BitsDial",
    "BlockDiagram",
    "GPTQLattice",
    "GridExplorer",
    "KVBytes",
    "KeyMap",
    "LetterHeatMap",
    "MaskExplorer",
    "MaskViewer",
    "MemoryTimeline",
    "MergeStepper",
    "NumberLine",
    "OptimizerRace",
    "PolicyPlayground",
    "RankSlider",
    "RopeDial",
    "RouterSimplex",
    "SamplingExplorer",
    "SchedulerTimeline",
    "ThresholdDial",
    "TokenComparer",
    "WindowSlider",
    "Writer",
]

_HOMES = {
    "AcceptReject": "accept_reject",
    "AllReduce": "all_reduce",
    "BetaExplorer": "beta_explorer",
    "BitsDial": "bits_dial",
    "BlockDiagram": "block_diagram",
    "GPTQLattice": "gptq_lattice",
    "GridExplorer": "grid_explorer",
    "KVBytes": "kv_bytes",
    "KeyMap": "key_map",
    "LetterHeatMap": "letter_heat_map",
    "MaskExplorer": "mask_explorer",
    "MaskViewer": "mask_viewer",
    "MemoryTimeline": "memory_timeline",
    "MergeStepper": "merge_stepper",
    "NumberLine": "number_line",
    "OptimizerRace": "optimizer_race",
    "PolicyPlayground": "policy_playground",
    "RankSlider": "rank_slider",
    "RopeDial": "rope_dial",
    "RouterSimplex": "router_simplex",
    "SamplingExplorer": "sampling_explorer",
    "SchedulerTimeline": "scheduler_timeline",
    "ThresholdDial": "threshold_dial",
    "TokenComparer": "token_comparer",
    "WindowSlider": "window_slider",
    "Writer": "writer",
}


def __getattr__(name: str) -> Any:
    """Import a widget on first access, so that the core installation can import this package."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import_module(".base", __name__)  # first: its error message names the missing extra
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
