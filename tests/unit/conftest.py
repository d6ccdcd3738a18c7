"""What unit tests share."""

import hypothesis

# A machine that is busy with something else is no reason for a test to fail.
hypothesis.settings.register_profile("house", deadline=None)
hypothesis.settings.load_profile("house")
