// Package caddy_test tests the whole: a real Caddy as a process, driven
// through Caddyfiles, HTTP, the admin API and the command line. Each file holds
// one promise.
package caddy_test

import (
	"os"
	"testing"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
)

func TestMain(m *testing.M) {
	code := m.Run()
	harness.RemoveBinary()
	os.Exit(code)
}
