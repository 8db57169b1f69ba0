"""mien as a service: an HTTP API that others build on, from one process to a cluster.

The process of the API runs no network. Workers are processes of their own: they answer calls
(one picture in, one out) and work on jobs, which they find in the database. Rows say what there
is, files lie in a store, and both may be shared by several machines.
"""
