"""The stores, one file each; `streamstores.opening` is their only importer."""
