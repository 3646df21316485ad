"""Methods that act between the updates of a run: each file makes one hook, see surgeon.train.hook."""
