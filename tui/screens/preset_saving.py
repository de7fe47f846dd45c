"""Keeping the settings of a setup as a preset of the person's own."""

from __future__ import annotations

from engine.config.own_presets import own_preset_path, save_preset
from engine.errors import LoraSmithError
from engine.text import printable
from tui.screens.ask import AskScreen
from tui.screens.ask_text import AskTextScreen
from tui.screens.step import StepScreen
from tui.setup.draft import forget_presets
from tui.texts import _


class PresetSaving(StepScreen):
    """Base of the step Review."""

    def _draw(self) -> None:
        """Show the setup again."""
        raise NotImplementedError

    def action_save_preset(self) -> None:
        """Ask for a name and write a preset."""
        text = _("Settings without model, images and name. Your own presets are in {0}").format(
            printable(own_preset_path("x").parent)
        )
        self.app.push_screen(AskTextScreen(_("Save as a preset"), text, own_preset_path), self._name_preset)

    def _name_preset(self, name: str | None) -> None:
        if name is None:
            return
        if not own_preset_path(name).exists():
            self._write_preset(name)
            return
        answers = {"no": _("Keep the old one"), "yes": _("Overwrite it")}

        def answered(answer: str | None) -> None:
            if answer == "yes":
                self._write_preset(name, overwrite=True)

        self.app.push_screen(AskScreen(_("The preset {0} exists already").format(name), answers), answered)

    def _write_preset(self, name: str, *, overwrite: bool = False) -> None:
        title = _("From {0}").format(printable(self.draft.preset))
        try:
            config = self.draft.config()
            path = save_preset(name, self.draft.preset, config, title, overwrite=overwrite)
            forget_presets()
            self.draft.rebase(name, config)
        except LoraSmithError as error:
            self.smith.show_error(error)
            return
        self._draw()
        self.answer(_("Saved as the preset {0}.").format(name))
        self.notify(printable(path), title=_("Preset {0}").format(name), markup=False)
