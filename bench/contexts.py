"""Initiates a GSSAPI context to each of many services, and prints the seconds that it took.

    python contexts.py COUNT DOMAIN

The services are host@s0.DOMAIN, host@s1.DOMAIN … Each context looks up the default credentials again, as in
a program that connects to one service after the other. Needs python-gssapi.
"""

import importlib
import sys
import time


def main() -> None:
    gssapi = importlib.import_module("gssapi")
    count, domain = int(sys.argv[1]), sys.argv[2]
    begin = time.perf_counter()
    for i in range(count):
        service = gssapi.Name(f"host@s{i}.{domain}", gssapi.NameType.hostbased_service)
        context = gssapi.SecurityContext(name=service, usage="initiate")
        if not context.step():
            raise SystemExit("no token")
    sys.stdout.write(f"{time.perf_counter() - begin}\n")


if __name__ == "__main__":
    main()
