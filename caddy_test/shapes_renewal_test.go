package caddy_test

import "net/http"

// renewals are how a second token is had. Where a refresh differs from the first
// request, the provider takes it in no other form.
func renewals() []choice {
	return []choice{
		// The grant itself, once more: no refresh token is issued.
		{"again", nil, nil},

		// A refresh token that is taken once, at the same endpoint.
		{"rotating", nil, nil},

		// One that stays: an answer to a refresh has none.
		{"lasting", nil, nil},

		// An endpoint of its own.
		{"address", func(_ *shape, c *shapeText) { c.refresh = append(c.refresh, "url "+c.at+"/renew") }, atRenew(nil)},

		// Another method, or another encoding.
		{"get", func(_ *shape, c *shapeText) { c.refreshForm = "GET" }, ofRefresh(func(w *wanted) {
			w.method, w.encoding = http.MethodGet, "query"
		})},
		{"json", func(_ *shape, c *shapeText) { c.refreshForm = "POST json" }, ofRefresh(func(w *wanted) {
			w.method, w.encoding = http.MethodPost, "json"
		})},
		{"form", func(_ *shape, c *shapeText) { c.refreshForm = "POST form" }, ofRefresh(func(w *wanted) {
			w.method, w.encoding = http.MethodPost, "form"
		})},

		// A body that is written out.
		{"body", func(s *shape, c *shapeText) {
			c.refresh = append(c.refresh, s.want(moment{path: "/x", refresh: true, renews: "x"}).bodyLine("body-json"))
		}, ofRefresh(func(w *wanted) {
			w.method, w.encoding = http.MethodPost, "body-json"
			w.set("refresh_token", w.renews)
		})},

		// The access token in the place of a refresh token, of which there is none.
		{"access", func(_ *shape, c *shapeText) { c.refresh = append(c.refresh, "param old {access_token}") },
			ofRefresh(func(w *wanted) {
				w.params.Del("refresh_token")
				w.set("old", w.renews)
			})},

		// The refresh token under another name, or in another place.
		{"name", func(_ *shape, c *shapeText) { c.refresh = append(c.refresh, "param renew <{refresh_token}>") },
			ofRefresh(func(w *wanted) {
				w.params.Del("refresh_token")
				w.set("renew", "<"+w.renews+">")
			})},
		{"field", func(_ *shape, c *shapeText) { c.refresh = append(c.refresh, `header X-Renew "Token {refresh_token}"`) },
			ofRefresh(func(w *wanted) {
				w.params.Del("refresh_token")
				w.header.Set("X-Renew", "Token "+w.renews)
			})},
		{"link", func(_ *shape, c *shapeText) {
			c.refresh = append(c.refresh, "url "+c.at+"/renew?with={refresh_token}&v=1")
		},
			atRenew(func(w *wanted) {
				w.params.Del("refresh_token")
				w.query.Set("with", w.renews)
				w.query.Set("v", "1")
			})},
	}
}

func ofRefresh(change func(*wanted)) func(*shape, *wanted) {
	return func(_ *shape, w *wanted) {
		if w.refresh {
			change(w)
		}
	}
}

func atRenew(change func(*wanted)) func(*shape, *wanted) {
	return ofRefresh(func(w *wanted) {
		w.endpoint = w.path + "/renew"
		if change != nil {
			change(w)
		}
	})
}
