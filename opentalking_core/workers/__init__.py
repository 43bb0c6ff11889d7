"""Run native code on strangers' pictures."""
