"""The orders API, its worker, and the dashboard: `python -m pipeline.api`, or the ASGI app of `pipeline.api.app:create`.

A request passes the edges (`edges`), is published (`publishing`) and answered after the broker's word (`orders`). What one
process holds besides, and the order in which it begins and ends, is in `service`.
"""
