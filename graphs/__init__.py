"""Contracts shared by the compiler and the runtime: signatures, buckets, limits and portable programs."""
