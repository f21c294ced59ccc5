"""Tests of how pods see volumes of the policy."""
