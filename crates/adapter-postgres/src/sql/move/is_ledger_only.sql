SELECT ledger_only FROM installation;
