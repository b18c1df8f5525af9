"""What several test modules share: fakes and builders, no tests."""
