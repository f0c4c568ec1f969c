"""Runs the tests of this folder and prints TAP: tap.py [NAME...], with names as unittest takes them."""

import sys
import traceback
import unittest


class TapResult(unittest.TestResult):
    def __init__(self):
        super().__init__()
        self.count = 0

    def say(self, verdict, test, note=''):
        self.count += 1
        print(f'{verdict} {self.count} - {test.id()}{note}', flush=True)

    def addSuccess(self, test):
        self.say('ok', test)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.say('ok', test, f' # SKIP {reason}')

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.say('not ok', test)
        for line in ''.join(traceback.format_exception(*err)).splitlines():
            print(f'# {line[:2000]}', flush=True)

    addError = addFailure

    def addSubTest(self, test, subtest, err):
        """A part that passes is not counted. One that fails is, and then the test itself prints nothing."""
        if err is not None:
            self.addFailure(subtest, err)


suite = unittest.defaultTestLoader.loadTestsFromNames(sys.argv[1:]) if sys.argv[1:] else unittest.defaultTestLoader.discover('.')
result = TapResult()
suite.run(result)
print(f'1..{result.count}')
sys.exit(0 if result.wasSuccessful() else 1)
