SELECT revision FROM installation;
