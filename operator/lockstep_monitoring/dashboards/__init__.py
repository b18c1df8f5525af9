"""The dashboards, each a module; their JSON is what the chart ships.

Called by the generator, by the renderer of pictures and by tests.
"""

from collections.abc import Callable

from grafana_foundation_sdk.models import dashboard as models

from lockstep_monitoring.dashboards import allocator, control_plane, devices, fleet, job

ALL: dict[str, Callable[[], models.Dashboard]] = {
    module.NAME: module.build for module in (fleet, job, devices, allocator, control_plane)
}
"""By name: what the file, the ConfigMap and the uid are called after."""
