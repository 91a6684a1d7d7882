"""A Keras model trained by ``fit`` with a loss of ours, saved, and loaded again."""

import tempfile
from pathlib import Path

import keras
import numpy as np

import lossbridge.keras as L  # also in the process that loads the model: it registers the classes


def main() -> None:
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(256, 4)).astype("float32")
    labels = x[:, :3].argmax(1)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])  # logits: no softmax
    model.compile(keras.optimizers.Adam(0.1), loss=L.CrossEntropyLoss())
    history = model.fit(x, labels, epochs=5, verbose=0, class_weight={0: 1.0, 1: 2.0, 2: 1.0})
    values = history.history["loss"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        again = keras.models.load_model(path)
    same = again.evaluate(x, labels, verbose=0) == model.evaluate(x, labels, verbose=0)
    print(f"loss {values[0]:.2f} -> {values[-1]:.2f}, and the loaded model agrees: {same}")


if __name__ == "__main__":
    main()
