package main

import (
	"image"
	"image/color"
	"strings"
	"testing"

	"github.com/makiuchi-d/gozxing"
	"github.com/makiuchi-d/gozxing/qrcode"

	"github.com/idloc/idloc/idloc"
)

// drawn is what a camera sees of a drawing: scale pixels a module.
func drawn(t testing.TB, text string, scale int) image.Image {
	t.Helper()
	var rows [][]bool // dark
	for line := range strings.Lines(text) {
		line, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), inkAndPaper)
		line, reset := strings.CutSuffix(line, asBefore)
		if !ok || !reset {
			t.Fatalf("a line without its colours: %q", line)
		}
		var upper, lower []bool
		for _, r := range line {
			if !strings.ContainsRune(" ▀▄█", r) {
				t.Fatalf("%q in the drawing", r)
			}
			upper = append(upper, r == '▀' || r == '█')
			lower = append(lower, r == '▄' || r == '█')
		}
		rows = append(rows, upper, lower)
	}
	img := image.NewGray(image.Rect(0, 0, scale*len(rows[0]), scale*len(rows)))
	for y := range img.Rect.Max.Y {
		for x := range img.Rect.Max.X {
			if !rows[y/scale][x/scale] {
				img.SetGray(x, y, color.Gray{Y: 255})
			}
		}
	}
	return img
}

// decode reads the QR code in img.
func decode(t testing.TB, img image.Image) string {
	t.Helper()
	bmp, err := gozxing.NewBinaryBitmapFromImage(img)
	if err != nil {
		t.Fatal(err)
	}
	res, err := qrcode.NewQRCodeReader().Decode(bmp, nil)
	if err != nil {
		t.Fatal(err)
	}
	return res.GetText()
}

// TestInviteQR: the code that invite draws holds the token that it prints.
func TestInviteQR(t *testing.T) {
	t.Parallel()
	earth := up(t, t.TempDir(), "create", "-name", "earth", "example.com")
	out := must(t)(tell(t, earth.dir, "invite", "-qr", "mars"))
	end := strings.LastIndex(out, "\n") + 1
	drawing, token := out[:end], out[end:]
	img := drawn(t, drawing, 3)
	read := decode(t, img)
	if read != strings.ToUpper(token) || token == "" {
		t.Errorf("the code says %q, want %q", read, strings.ToUpper(token))
	}
	if info, err := idloc.ParseToken(read); err != nil || info.Name != "mars" {
		t.Errorf("what the code says is for %q, %v", info.Name, err)
	}
	if plain, err := tell(t, earth.dir, "invite", "venus"); err != nil || strings.Contains(plain, "\n") || !strings.HasPrefix(plain, "idloc1") {
		t.Errorf("without -qr: %v, %q", err, plain)
	}
}

// TestDrawQR: codes of all sizes that tokens may have are read again, and one
// that is too long for any code is an error.
func TestDrawQR(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 20, 100, 387, 600} {
		token := "idloc1" + strings.Repeat("q7x", n)[:n]
		var b strings.Builder
		if err := drawQR(&b, token); err != nil {
			t.Fatal(err)
		}
		if got := decode(t, drawn(t, b.String(), 3)); got != strings.ToUpper(token) {
			t.Errorf("%d characters: the code says %q", len(token), got)
		}
		// In alphanumeric mode it is smaller than as it is written.
		var small strings.Builder
		if err := drawQR(&small, token+"é"); err != nil {
			t.Fatal(err)
		}
		if n >= 100 && len(b.String()) >= len(small.String()) {
			t.Errorf("%d characters: no smaller in alphanumeric mode", len(token))
		}
	}
	var b strings.Builder
	if err := drawQR(&b, strings.Repeat("q", 5000)); err == nil || b.Len() > 0 {
		t.Errorf("5000 characters: %v, %d bytes drawn", err, b.Len())
	}
}
