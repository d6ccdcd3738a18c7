"""The library of soulseek-research: what is heard is kept in `storage`; `simulation` is a network to try it on."""
