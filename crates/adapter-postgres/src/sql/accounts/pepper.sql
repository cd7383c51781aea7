SELECT pepper FROM installation;
