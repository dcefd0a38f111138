package injecttoken

import (
	"cmp"
	"slices"
	"strings"

	"github.com/caddytoken/inject-token/tokensource"
)

// caddyfile returns a Caddyfile to begin with, in which everything that depends on
// the user is an example.
func (p *preset) caddyfile() string {
	upstream := cmp.Or(p.withExamples(p.api), "https://api.example.org")
	lines := []string{"{", "\ttoken_sources {", "\t\tsource " + p.name + " {"}
	for _, option := range p.begin() {
		lines = append(lines, "\t\t\t"+option)
	}
	lines = append(lines, "\t\t}", "\t}", "}", "")
	if p.source.Grant == "authorization_code" && p.source.CodeField == 0 {
		lines = append(lines, "https://"+exampleHost+" {", "\ttls internal", "\ttoken_callback /oauth/callback")
	} else {
		lines = append(lines, "http://127.0.0.1:8080 {", "\tbind 127.0.0.1")
	}
	lines = append(lines, "\tinject_token "+p.name+" "+upstream, "}", "")
	return strings.Join(lines, "\n")
}

// exampleHost is where the callers of the example find Caddy.
const exampleHost = "api.internal.example.org"

// begin returns what a user has to write in a source of this provider.
func (p *preset) begin() []string {
	lines := []string{"provider " + p.name}
	for _, v := range p.values {
		if v.fallback == "" {
			lines = append(lines, "\t"+v.name+" "+v.example())
		}
	}
	if len(lines) > 1 {
		lines[0] += " {"
		lines = append(lines, "}")
	}
	for _, option := range p.own() {
		written := func(line string) bool { return strings.HasPrefix(line, option[0]+" ") }
		if !slices.ContainsFunc(p.example, written) {
			lines = append(lines, option[0]+" "+option[1])
		}
	}
	return append(lines, p.example...)
}

// own are the options that depend on the user, with an example each.
func (p *preset) own() (options [][2]string) {
	grant, _ := tokensource.GrantByName(p.source.Grant)
	given := p.source.given()
	secret := func(suffix string) string { return "{file./run/secrets/" + p.name + suffix + "}" }
	method := p.source.ClientAuth
	wanted := func(option string) bool {
		return slices.Contains(grant.Needs, option) && !given[option]
	}
	if wanted("client_id") || strings.HasPrefix(method, "client_secret_") {
		options = append(options, [2]string{"client_id", "your-client-id"})
	}
	switch {
	case p.source.Grant == "jwt_bearer" || method == "private_key_jwt":
		options = append(options, [2]string{"private_key", secret(".key")})
	case strings.HasPrefix(method, "client_secret_"):
		options = append(options, [2]string{"client_secret", secret("")})
	}
	if wanted("username") {
		options = append(options, [2]string{"username", "reports"})
	}
	for _, option := range []string{"password", "refresh_token"} {
		if wanted(option) {
			options = append(options, [2]string{option, secret("-" + strings.ReplaceAll(option, "_", "-"))})
		}
	}
	if p.source.Grant == "authorization_code" && p.source.CodeField == 0 {
		options = append(options, [2]string{"redirect_uri", "https://" + exampleHost + "/oauth/callback"})
	}
	return options
}
