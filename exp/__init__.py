"""Deep learning from the foundations: one module a notebook.

    nb00    exports                  How this works: a notebook becomes a module, and a test
    nb00a   datasets                 Data that is simply there: one call, complete or absent
    nb00b   samples                  Samples: data sets made on the spot, whose truth is known
    nb01    matmul                   Matrix multiplication: from three loops to tiles
    nb02    fully_connected          Fully connected networks: gradients by hand, then by a tape
    nb03    minibatch_training       Minibatch training
    nb03b   data_loaders             Data loaders
    nb03c   generalisation           Training that generalises
    nb03d   bookkeeping              Bookkeeping: means that wait, chance that comes back
    nb04    callbacks                Callbacks: a training loop that others can extend
    nb04a   watching                 Watching a training: curves, progress, a log
    nb04b   everyday_callbacks       Everyday callbacks: devices, gradients, stopping
    nb04c   saving                   Saving: files that are whole and cannot bite
    nb04d   checkpoints              Checkpoints: a training that survives
    nb05    anneal                   Annealing: a rate for every moment
    nb05b   lr_find                  The learning-rate finder
    nb05c   optimizers               Optimizers: a step made of parts
    nb06    cuda_cnn_hooks_init      Convolutions, hooks and a good start
    nb06b   resnet                   Normalisation and residual networks
    nb06c   scale                    Scale: half precision and many processes
    nb10    makemore                 Makemore: names, letter by letter
    nb11    rnn                      Recurrent networks: one cell, any length
    nb11b   language_model           A language model, character by character
"""
# generated from the notebooks: do not edit · bf8290

import importlib

_topics = {
    "exports": "nb00",
    "datasets": "nb00a",
    "samples": "nb00b",
    "matmul": "nb01",
    "fully_connected": "nb02",
    "minibatch_training": "nb03",
    "data_loaders": "nb03b",
    "generalisation": "nb03c",
    "bookkeeping": "nb03d",
    "callbacks": "nb04",
    "watching": "nb04a",
    "everyday_callbacks": "nb04b",
    "saving": "nb04c",
    "checkpoints": "nb04d",
    "anneal": "nb05",
    "lr_find": "nb05b",
    "optimizers": "nb05c",
    "cuda_cnn_hooks_init": "nb06",
    "resnet": "nb06b",
    "scale": "nb06c",
    "makemore": "nb10",
    "rnn": "nb11",
    "language_model": "nb11b",
}


def __getattr__(name):
    """Import a module by its topic: `from exp import callbacks` gives exp.nb04."""
    if name in _topics:
        return importlib.import_module("." + _topics[name], __name__)
    raise AttributeError(f"{__name__} has no {name!r}; its topics are {', '.join(_topics)}")


def __dir__():
    return sorted([*globals(), *_topics])
