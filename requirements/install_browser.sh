#!/bin/sh
# Install Chromium from the system's packages, where there is none. Without root or apt-get, or where that fails, say so and
# succeed: only the tests of the report's page need it.
for name in chromium chromium-browser google-chrome; do
    command -v "$name" > /dev/null && exit 0
done
if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
    echo "Chromium is missing and needs root and apt-get to be installed: the tests of the report's page will be skipped."
elif ! { apt-get update -qq && apt-get install -y -qq chromium > /dev/null; }; then
    echo "apt-get could not install Chromium: the tests of the report's page will be skipped."
fi
