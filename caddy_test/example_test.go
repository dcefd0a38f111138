package caddy_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
)

// TestCaddyfileExampleRunsAsItIs changes nothing of it but its ports, which
// may be taken on the machine that tests.
func TestCaddyfileExampleRunsAsItIs(t *testing.T) {
	t.Parallel()
	text := harness.ReadRepositoryFile(t, "Caddyfile.example")
	ports := make(map[string]string)
	for _, port := range []string{"8080", "8081", "8082"} {
		ports[port] = itoa(harness.Port(t))
		text = strings.ReplaceAll(text, "127.0.0.1:"+port, "127.0.0.1:"+ports[port])
	}
	const admin = "admin 127.0.0.1:2019"
	if strings.Count(text, admin) != 1 {
		t.Fatal("the example has another admin address")
	}
	c := harness.Start(t, strings.Replace(text, admin, "{{globals}}", 1))
	c.Eventually(20*time.Second, "the example answers", func() bool {
		resp, body := harness.Get(t, "http://127.0.0.1:"+ports["8080"]+"/hello")
		return resp.StatusCode == http.StatusOK && body == "Hello! You asked for /hello with a valid token."
	})
	if resp, body := harness.Get(t, "http://127.0.0.1:"+ports["8082"]+"/hello"); resp.StatusCode != http.StatusUnauthorized || body != "No token, no answer." {
		t.Errorf("without a token the API answers %d %q", resp.StatusCode, body)
	}
}
