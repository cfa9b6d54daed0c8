"""A stand-in for the ``atc`` executable, for machines without CANN.

It reads its command line, checks, fails and reports as the public sources and documents of ATC say
(graph-engine 9.2, CANN 8.1.RC1), and writes a real-format ``.om`` that is marked as simulated.  It
compiles nothing for a chip.  Switches, all from the environment:

* ``OMFUSE_SIM_ATC_ERA``: 7, 8 (default) or 9, the form of error texts;
* ``OMFUSE_SIM_ATC_PARSER``: ``old`` (default, CANN 8.x) or ``new``, how operators are looked up;
* ``OMFUSE_SIM_ATC_FAULT``: ``CODE[:text]`` fails the build with a code, ``kill``, ``hang`` or
  ``silent`` end it in another bad way, ``no-om`` and ``bad-om`` spoil the result;
* ``OMFUSE_SIM_ATC_SUFFIX``: 1 names the file with the host's suffix, as some dynamic models are.
"""
