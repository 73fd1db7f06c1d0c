"""Raw rows under the record contract, in published order."""
