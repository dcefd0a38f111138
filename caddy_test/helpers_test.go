package caddy_test

import (
	"fmt"
	"strconv"
	"testing"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

func itoa(n int) string { return strconv.Itoa(n) }

// crmSource is a source for the standard provider, with further options.
func crmSource(p *provider.Provider, options string) string {
	return fmt.Sprintf(`source crm {
			grant client_credentials
			token_url %s
			client_id %s
			client_secret {file.{{dir}}/secret}
			%s
		}`, p.TokenURL(), provider.ClientID, options)
}

// caddyfile is a configuration with these sources and one site on a free port.
// It returns the site's address as well.
func caddyfile(tb testing.TB, sources, site string) (text, url string) {
	tb.Helper()
	address := "http://127.0.0.1:" + itoa(harness.Port(tb))
	return fmt.Sprintf(`{
	{{globals}}
	token_sources {
		%s
	}
}
%s {
	bind 127.0.0.1
	%s
}
`, sources, address, site), address
}

// withSecret writes the client's secret into the folder of Caddy.
func withSecret(secret string) harness.Option { return harness.File("secret", secret) }
