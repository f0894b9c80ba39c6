//! The seam to the drive.
