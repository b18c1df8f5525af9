"""Pictures of jobs and benches: charts (Altair) of plain data, and the pages and files they go to.

Called by the CLI (reports, dashboards, comparisons), the simulator, the allocator's training and
the benches. Invariant: knows nothing of clusters, planes or files to read: whoever calls it brings
the figures.
"""
