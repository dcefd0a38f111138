package injecttoken

import (
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddytoken/inject-token/tokensource"
)

// runtimePlaceholders are those that mean the same without a request. They are
// resolved at each token request, so that a secret that is rotated on disk is
// picked up; what they stood for is never kept.
var runtimePlaceholders = []string{"env.", "file.", "system."}

// isRuntime says whether a placeholder can be resolved by lookup.
func isRuntime(name string) bool {
	for _, prefix := range runtimePlaceholders {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

var globalReplacer = caddy.NewReplacer()

// lookup resolves a runtime placeholder. Caddy's own Replacer.Replace is not
// used: its errors print what stands around a placeholder.
func lookup(name string) (string, bool) {
	if !isRuntime(name) {
		return "", false
	}
	value, _ := globalReplacer.GetString(name)
	return value, true
}

// literalWarning says what is to be said of a secret that stands in the
// configuration itself, where everybody sees it who can read that; "" of one
// that does not.
func literalWarning(secret string) string {
	switch {
	case secret == "",
		slices.ContainsFunc(tokensource.Placeholders(secret), func(name string) bool {
			return isRuntime(name) || name == tokensource.RefreshTokenPlaceholder || strings.HasPrefix(name, tokensource.SourcePlaceholder)
		}):
		return ""
	case strings.HasPrefix(secret, "/"), strings.Contains(secret, "{file"), strings.Contains(secret, "{env"):
		return "this secret is sent as it is written here, and not read from anywhere; write {file.PATH} or {env.NAME}"
	}
	return "this secret stands in the configuration itself; {file.PATH} or {env.NAME} would keep it out"
}
