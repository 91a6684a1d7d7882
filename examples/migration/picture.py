"""The picture of the four runs."""

from __future__ import annotations

from pathlib import Path

STYLES = {
    "keras_original": {"color": "#9db8d9", "linewidth": 6.0},
    "torch_port": {"color": "#1f5fa8", "linewidth": 1.6},
    "jax_port": {"color": "#1a7f4b", "linestyle": "", "marker": "o", "markersize": 3.5},
    "torch_naive": {"color": "#b3541e", "linestyle": "--", "linewidth": 1.6},
}


def draw(curves: dict[str, list[float]], apart: dict[str, list[float]], path: Path) -> None:
    """Two panels: the training losses, and how far each is from the original's."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "lossbridge"  # the same curves give the same file
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.6), constrained_layout=True)
    for name, curve in curves.items():
        left.plot(curve, label=name, **STYLES[name])
    for name, differences in apart.items():
        epochs = range(1, len(differences))  # all start at the same point
        right.plot(epochs, [max(d, 1e-10) for d in differences[1:]], **STYLES[name])
    left.set_title("training loss", fontsize=10)
    left.set_yscale("log")
    left.set_yticks([0.5, 0.7, 1.0, 1.5, 2.0], labels=["0.5", "0.7", "1.0", "1.5", "2.0"])
    left.minorticks_off()
    left.legend(frameon=False, fontsize=9)
    right.set_title("relative difference from keras_original", fontsize=10)
    right.set_yscale("log")
    right.set_ylim(1e-10, 1.0)
    for panel in (left, right):
        panel.set_xlabel("epoch")
        panel.grid(alpha=0.25, linewidth=0.6)
    figure.savefig(path, metadata={"Date": None})
