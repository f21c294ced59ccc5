"""The control socket: where it is, who may give orders, lines of JSON that go on. Not what is answered."""
