SELECT revision FROM installation
