"""The classifier as it was written for Keras.

python examples/migration/keras_original.py
"""

from __future__ import annotations

import keras
import task

LOSS = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=task.SMOOTHING)


def train() -> list[float]:
    """The training loss at the start and after every epoch."""
    model = keras.Sequential(
        [
            keras.Input((task.PIXELS.shape[1],)),
            keras.layers.Dense(task.HIDDEN, activation="relu"),
            keras.layers.Dense(task.CLASSES),
        ]
    )
    model.set_weights(task.start())
    model.compile(keras.optimizers.SGD(task.RATE, momentum=task.MOMENTUM), loss=LOSS)
    curve = [task.training_loss(model.get_weights())]
    model.fit(
        task.PIXELS,
        task.ONE_HOT,
        # `class_weight=` does the same product, but fit refuses it beside `sample_weight=`.
        sample_weight=task.CLASS_WEIGHT[task.LABELS] * task.TRUST,
        batch_size=task.BATCH,
        epochs=task.EPOCHS,
        shuffle=False,
        verbose=0,
        callbacks=[
            keras.callbacks.LambdaCallback(
                on_epoch_end=lambda epoch, logs: curve.append(
                    task.training_loss(model.get_weights())
                )
            )
        ],
    )
    return curve


if __name__ == "__main__":
    print(f"training loss {train()[-1]:.6f}")
