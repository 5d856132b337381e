module podtap.dev/tests/openshift

go 1.24
