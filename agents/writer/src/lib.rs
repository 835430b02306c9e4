//! Writes images from the ring into HDF5 files with a ledger
