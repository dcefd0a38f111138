// Package caddy_test tests the whole: a real Caddy as a process, driven
// through Caddyfiles, HTTP, the admin API and the command line. Each file holds
// one promise.
package caddy_test

import (
	"flag"
	"os"
	"testing"

	"github.com/caddytoken/inject-token/caddy_test/internal/browser"
	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
)

func TestMain(m *testing.M) {
	// Most tests wait for something most of the time.
	flag.Parse()
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	code := m.Run()
	browser.Close()
	harness.RemoveNodeServers()
	harness.RemoveBinary()
	os.Exit(code)
}
