"""The Dagster graph: the only package that imports dagster.

Everything a run computes is done by the functions of ``rasteret_assets.pipeline``; here lie the definitions around it:
resources, partitions, assets, the job and sensor of a collection, and what assembles them.
"""
