"""Maps over items: in this process, over processes here, or on a Dask cluster; resumable, and equal to the last bit."""
