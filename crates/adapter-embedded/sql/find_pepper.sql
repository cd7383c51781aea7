SELECT pepper FROM installation
