"""The oracle for tests of rules and passes: removal equals masking."""
