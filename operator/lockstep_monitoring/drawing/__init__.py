"""Dashboards drawn as pictures without a Grafana, from their JSON and a running Prometheus.

`board` reads the JSON, `charts` and `plain` draw one panel each, `page` puts them where the JSON
says, `__main__` is the command. Invariant: what is drawn is what the file's queries find; nothing
here knows a dashboard by name.
"""
