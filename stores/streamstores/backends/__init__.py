"""The stores, one file each; `streamstores.store_urls` is their only importer."""
