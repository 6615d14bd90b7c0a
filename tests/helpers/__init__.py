"""What the tests share: none of these modules holds a test, and no test module is imported."""
