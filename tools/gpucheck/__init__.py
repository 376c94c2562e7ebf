"""The GPU check: one command for everything that can be verified and measured only on a CUDA machine.

``python -m precast.tools.gpucheck`` runs stages, each in processes of its own, and writes their results to
``benchmarks/results/gpu_check.json`` after each stage. ``--rehearse`` runs the same code with tiny sizes on a
CPU, so that no line runs for the first time on a GPU, where time is expensive.

To add a stage, write a module in ``stages/`` with a ``STAGE`` and a function that returns a ``Report``, and
add it to ``stages.STAGES``.
"""
