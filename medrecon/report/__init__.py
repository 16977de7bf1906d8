"""Pictures and reports of reconstructions."""
