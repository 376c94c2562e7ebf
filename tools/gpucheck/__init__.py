"""The GPU check: one command that proves on a CUDA machine what no other machine can prove.

``python -m precast.tools.gpucheck`` runs stages, each in processes of its own, and writes what they found to
``benchmarks/results/gpu_check.json`` after each of them. ``--rehearse`` runs the same code in tiny sizes on a
CPU, so that no line runs for the first time where every minute counts.

To add a stage: a module in ``stages/`` with a row ``STAGE`` and a function that gives a ``Report``, and its
index in ``stages.STAGES``.
"""
